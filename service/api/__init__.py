"""The HTTP role: REST routes and the web page, in front of the queue. No torch here."""
