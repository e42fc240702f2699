"""The typed configuration: read, checked across fields, explained in one message when wrong."""
