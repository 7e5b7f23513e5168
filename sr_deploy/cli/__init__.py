"""The command `srdeploy`: each subcommand parses, calls one function of the library, and prints."""
