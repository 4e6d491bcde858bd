export const bundlerRows = []
