"""The network's side: data, training, evaluation, weights and prediction. It never imports `app`."""
