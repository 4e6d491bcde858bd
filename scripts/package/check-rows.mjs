export const checkRows = []
