"""Release tooling: conversion, export, model cards, and the weights in the package."""
