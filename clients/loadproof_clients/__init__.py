"""The load: what is sent, when it is sent, and the record of what came back."""
