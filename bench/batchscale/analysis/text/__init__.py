"""Write the sentences of a page: the answer, the method, captions and alternative texts."""
