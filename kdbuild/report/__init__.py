"""The report and the cards: what was built, told from the outputs of the other stages alone."""
