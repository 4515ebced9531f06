"""Reading fastreid's results and drawing tables and figures of them."""
