"""Amazon ECS through boto3, behind `reconciler.seams.Ecs`: the client, its pacing, and what its answers mean."""
