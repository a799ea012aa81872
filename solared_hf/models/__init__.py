"""Model families, one folder each: `spatio_temporal_attention` and `spatio_temporal_resnet`."""
