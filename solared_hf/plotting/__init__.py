"""Pictures: of forecasts, of training, of scores and of a dataset. Arrays in, matplotlib figures out, with units."""
