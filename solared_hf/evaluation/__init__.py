"""How good a forecast is: errors, skill, and tables of forecasters on the same windows."""
