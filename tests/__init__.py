"""The tests, a folder for each part of the code; marks say which promise a test keeps."""
