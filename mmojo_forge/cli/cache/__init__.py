"""`forge cache …`: share results with other builders."""
