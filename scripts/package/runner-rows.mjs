export const runnerRows = []
