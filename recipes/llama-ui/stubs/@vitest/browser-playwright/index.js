// The tests are not run here, so that no browser is needed to read vite.config.ts.
export const playwright = () => null;
