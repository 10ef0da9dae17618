"""Moving an MLP's intermediate channels, so that n:m patterns lose less."""
