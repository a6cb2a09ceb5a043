"""The command line: arguments in, a result on stdout and an exit code out."""
