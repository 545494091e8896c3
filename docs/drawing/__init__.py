"""What the pictures of tutorial.md show, and the shapes that they are drawn with."""
