"""What is done with a trained model: read its weights, generate, measure a text, export."""
