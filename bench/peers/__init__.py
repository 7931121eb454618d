"""What our service is measured beside: the same three routes as others write them, and the upstream of all."""
