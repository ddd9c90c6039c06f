"""A model server that answers at once and always the same: what is measured against it is the generator itself."""
