"""From raw footage to a training set."""
