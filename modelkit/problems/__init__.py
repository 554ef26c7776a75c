"""The problems that instances pose, a package each: bounds, searches and what follows from them."""
