"""Is it better than before? Campaigns beside each other, from their run directories and nothing else.

`sides` reads and matches, `intervals` has the statistics, `comparison` says what follows, `gates` judges limits on it,
`history` looks at many campaigns; `texts`, `terminal` and `files` show it.
"""
