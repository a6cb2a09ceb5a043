"""What every room may use: files, logging, plain data, blocks of a large table."""
