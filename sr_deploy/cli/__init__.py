"""The command `srdeploy`. Each subcommand parses its options, calls one function of the library and prints."""
