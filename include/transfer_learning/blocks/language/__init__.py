"""Language models: documents to blocks, what is predicted in them, and how a model of them is trained and published."""
