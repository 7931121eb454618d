"""What is promised while parts are killed, stopped, cut off and slowed, shown by doing that: `make chaos`."""
