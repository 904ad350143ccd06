// The tests are not run here, so that Storybook is not needed to read vite.config.ts.
export const storybookTest = () => null;
