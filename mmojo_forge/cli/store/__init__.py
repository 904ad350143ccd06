"""`forge store …`: look at the store and maintain it."""
