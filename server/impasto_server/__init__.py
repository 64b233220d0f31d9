"""The impasto server: takes jobs over gRPC and runs them on a pool of resident networks."""
