"""The command `srdeploy`. A subcommand parses its options, calls the library and prints."""
