"""Agreement on an order of transactions, behind one narrow port; knows nothing of what they mean."""
