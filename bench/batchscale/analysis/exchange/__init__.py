"""Exchange results with others: import CSV files, export numbers, predict times, and submit a folder."""
