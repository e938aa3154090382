"""The networks: one frozen backbone, and the light plugins that steer it."""
