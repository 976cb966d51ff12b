"""What kinds share that train two towers with a contrastive loss."""
