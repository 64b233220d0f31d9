"""The internal contract between a server and its workers on other machines."""
