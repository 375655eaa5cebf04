"""The command line: words are read, a command runs, failures become exit codes."""
