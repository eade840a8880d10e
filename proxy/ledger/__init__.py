"""Who holds what: seats and tokens. Nothing here knows of rules, sockets or frames."""
