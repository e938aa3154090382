"""Instructions to train the selector with: a grammar over hand-written phrases, no data set."""
