"""What quantisation did to a model: tensor by tensor, group by group, and by way of calibrating."""
