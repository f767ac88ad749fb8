"""Sort photographs into folders by class: a plan to look at, its application, and its undoing."""
