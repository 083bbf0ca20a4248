CREATE DATABASE mlflow OWNER folkmoot;
