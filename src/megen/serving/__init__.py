"""The edge server: queue, engine, and the app that holds the sockets."""
