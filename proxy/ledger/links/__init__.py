"""The way to the store's servers, whatever they are: one ordered connection to each, which answers in time or says that it does not."""
