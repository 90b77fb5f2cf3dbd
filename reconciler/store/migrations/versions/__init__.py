"""The revisions, oldest first. A release expands the schema; what it has replaced goes one release later."""
