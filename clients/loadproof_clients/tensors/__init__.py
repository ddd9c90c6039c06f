"""Named arrays as every API's requests and answers carry them: datatypes, files of them, and whether two agree."""
