"""One command that proves a machine: `srdeploy selftest`, or `python -m sr_deploy.selftest`."""
