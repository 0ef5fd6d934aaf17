"""Write what is read: the page of a results folder, of a comparison and of a site, and the terminal's table."""
