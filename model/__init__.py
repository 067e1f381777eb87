"""The network's side: data, training, weights and prediction. It never imports `app`."""
