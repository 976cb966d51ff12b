"""What an attempt consists of: names, plan, pods and child."""
