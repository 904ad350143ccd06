"""`forge ape …`: look into packaged files and change them."""
